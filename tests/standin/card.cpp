// A GPU that is none: the device "cuda" of a torch that was built for CPUs alone.
//
// Its memory is the host's and its kernels are the CPU's, so it is slow and its numbers are a CPU's. But no
// operation may mix its tensors with a CPU's, its memory is counted and may run out, and what is copied beside
// the computation arrives as late as it may: when someone waits for it. Torch has no public way to stand in for
// CUDA, so this is one file that is built against the very torch that is tested, with the tests.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_as_complex_native.h>
#include <ATen/ops/view_as_real_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <atomic>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>

namespace {

const at::Device kCard(at::DeviceType::CUDA, 0);

struct Account {
  std::atomic<int64_t> now{0}, peak{0}, cap{0};
  void add(int64_t bytes) {
    int64_t after = now += bytes;
    if (cap && after > cap) {
      now -= bytes;
      TORCH_CHECK_WITH(OutOfMemoryError, false, "CUDA out of memory. Tried to allocate ", bytes, " bytes; ",
                       after - bytes, " of ", cap.load(), " are in use.");
    }
    int64_t high = peak;
    while (after > high && !peak.compare_exchange_weak(high, after)) {
    }
  }
  void drop(int64_t bytes) { now -= bytes; }
};
Account account;

int64_t rounded(int64_t bytes) { return (bytes + 511) / 512 * 512; }

struct Held {
  at::DataPtr inner;
  c10::Storage storage;
  int64_t bytes;
};

void let_go(void* held) {
  auto* one = static_cast<Held*>(held);
  account.drop(one->bytes);
  delete one;
}

struct CardAllocator final : c10::Allocator {
  at::DataPtr allocate(size_t size) override {
    auto bytes = rounded(static_cast<int64_t>(size));
    account.add(bytes);
    auto inner = c10::GetDefaultCPUAllocator()->allocate(size);
    void* data = inner.get();
    return {data, new Held{std::move(inner), {}, bytes}, &let_go, kCard};
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, std::size_t count) const override { std::memcpy(to, from, count); }
};
CardAllocator allocator;

// Memory that the device can read by itself: allocated so, or registered.
std::mutex pins_lock;
std::map<const char*, size_t> pins;

void unpin(void* data) {
  {
    std::lock_guard<std::mutex> lock(pins_lock);
    pins.erase(static_cast<const char*>(data));
  }
  std::free(data);
}

struct PinnedAllocator final : c10::Allocator {
  at::DataPtr allocate(size_t size) override {
    void* data = std::aligned_alloc(64, (size + 63) / 64 * 64 + 64);
    std::lock_guard<std::mutex> lock(pins_lock);
    pins[static_cast<const char*>(data)] = size;
    return {data, data, &unpin, at::Device(at::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &unpin; }
  void copy_data(void* to, const void* from, std::size_t count) const override { std::memcpy(to, from, count); }
};
PinnedAllocator pinned;

bool is_pinned(const void* data) {
  std::lock_guard<std::mutex> lock(pins_lock);
  auto after = pins.upper_bound(static_cast<const char*>(data));
  if (after == pins.begin()) return false;
  --after;
  return static_cast<const char*>(data) < after->first + std::max<size_t>(after->second, 1);
}

// The runtime, as far as torch asks for it.
struct Guard final : c10::impl::DeviceGuardImplInterface {
  at::DeviceType type() const override { return at::DeviceType::CUDA; }
  at::Device exchangeDevice(at::Device) const override { return kCard; }
  at::Device getDevice() const override { return kCard; }
  void setDevice(at::Device) const override {}
  void uncheckedSetDevice(at::Device) const noexcept override {}
  c10::Stream getStream(at::Device) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, kCard); }
  c10::Stream getDefaultStream(at::Device) const override { return c10::Stream(c10::Stream::DEFAULT, kCard); }
  c10::Stream getNewStream(at::Device, int) const override { return c10::Stream(c10::Stream::DEFAULT, kCard); }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, kCard); }
  at::DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void**, const c10::Stream&, const at::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const at::DeviceIndex) const noexcept override {}
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
  void synchronizeEvent(void*) const override {}
  void synchronizeDevice(const at::DeviceIndex) const override {}
  void recordDataPtrOnStream(const at::DataPtr&, const c10::Stream&) const override {}
};

struct CUDAHooks final : at::CUDAHooksInterface {
  explicit CUDAHooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasCUDA() const override { return true; }
  bool hasCUDART() const override { return true; }
  at::DeviceIndex deviceCount() const override { return 1; }
  at::DeviceIndex current_device() const override { return 0; }
  at::DeviceIndex getCurrentDevice() const override { return 0; }
  int getNumGPUs() const override { return 1; }
  bool hasPrimaryContext(at::DeviceIndex) const override { return true; }
  bool isPinnedPtr(const void* data) const override { return is_pinned(data); }
  at::Allocator* getPinnedMemoryAllocator() const override { return &pinned; }
  at::Allocator* getCUDADeviceAllocator() const override { return &allocator; }
  at::Device getDeviceFromPtr(void*) const override { return kCard; }
  void deviceSynchronize(at::DeviceIndex) const override {}
  const at::Generator& getDefaultGenerator(at::DeviceIndex) const override {
    return at::detail::getDefaultCPUGenerator();
  }
  at::Generator getNewGenerator(at::DeviceIndex) const override { return at::detail::createCPUGenerator(); }
};

bool on_card(const at::Tensor& x) { return x.defined() && x.is_cuda(); }

at::Tensor seen_by_cpu(const at::Tensor& x) {  // the same memory, as the CPU sees it
  auto keep = x.storage();
  return at::for_blob(const_cast<void*>(x.const_data_ptr()), x.sizes())
      .strides(x.strides())
      .deleter([keep](void*) {})
      .options(x.options().device(at::kCPU).requires_grad(false))
      .make_tensor();
}

at::Tensor raw(c10::Storage storage, const at::Tensor& like, int64_t offset) {
  auto out = at::detail::make_tensor<c10::TensorImpl>(
      std::move(storage), c10::DispatchKeySet(c10::DispatchKey::CUDA), like.dtype());
  out.unsafeGetTensorImpl()->set_sizes_and_strides(like.sizes(), like.strides(), offset);
  return out;
}

at::Tensor moved(const at::Tensor& x) {  // a result of the CPU, as the card's
  auto inner = x.storage();
  auto bytes = rounded(static_cast<int64_t>(inner.nbytes()));
  account.add(bytes);
  at::DataPtr data(inner.mutable_data(), new Held{{}, inner, bytes}, &let_go, kCard);
  c10::Storage storage(c10::Storage::use_byte_size_t(), inner.nbytes(), std::move(data), &allocator, true);
  return raw(std::move(storage), x, x.storage_offset());
}

const std::set<std::string> kMayMix = {
    "aten::index.Tensor", "aten::index_put_", "aten::_index_put_impl_", "aten::index_put", "aten::_unsafe_index.Tensor",
};

struct Seen {
  std::vector<at::Tensor> card, host;  // as they came, as the CPU sees them
  std::vector<std::pair<at::Tensor, at::Tensor>> grown;  // to be written, and what the CPU makes of them
  bool any = false;
};

at::Tensor lowered(const at::Tensor& x, Seen& seen, bool out = false) {
  if (!on_card(x)) return x;
  seen.any = true;
  seen.card.push_back(x);
  if (out) {
    seen.host.push_back(at::empty({0}, x.options().device(at::kCPU)));
    seen.grown.emplace_back(x, seen.host.back());
  } else {
    seen.host.push_back(seen_by_cpu(x));
  }
  return seen.host.back();
}

void refuse_mix(const std::string& name, const at::Tensor& x) {
  TORCH_CHECK(!x.defined() || !x.is_cpu() || x.dim() == 0 || kMayMix.count(name),
              "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! (",
              name, ", ", x.sizes(), ")");
}

at::Tensor raised(const at::Tensor& x, const Seen& seen) {
  if (!x.defined()) return x;
  for (size_t i = 0; i < seen.host.size(); ++i)
    if (x.is_same(seen.host[i])) return seen.card[i];
  for (size_t i = 0; i < seen.host.size(); ++i)
    if (x.storage().is_alias_of(seen.host[i].storage()))
      return raw(seen.card[i].storage(), x,
                 seen.card[i].storage_offset() * static_cast<int64_t>(seen.card[i].itemsize()) /
                         static_cast<int64_t>(x.itemsize()) + x.storage_offset());
  return moved(x);
}

void flush(int64_t which, int64_t until);
int64_t inside();

void by_the_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  auto name = c10::toString(schema.operator_name());
  auto count = schema.arguments().size();
  auto arguments = torch::jit::pop(*stack, count);
  if (inside()) flush(inside(), -1);
  Seen seen;
  torch::jit::Stack below;
  bool asked = false;
  for (size_t i = 0; i < count; ++i) {
    auto& value = arguments[i];
    if (value.isTensor()) {
      below.emplace_back(lowered(value.toTensor(), seen, schema.arguments()[i].is_out()));
    } else if (value.isTensorList()) {
      std::vector<at::Tensor> parts;
      for (const at::Tensor& one : value.toTensorVector()) parts.push_back(lowered(one, seen));
      below.emplace_back(parts);
    } else if (value.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> parts;
      for (const std::optional<at::Tensor>& one : value.toOptionalTensorVector())
        parts.push_back(one ? std::optional<at::Tensor>(lowered(*one, seen)) : std::nullopt);
      below.emplace_back(parts);
    } else if (value.isDevice() && value.toDevice().is_cuda()) {
      asked = true;
      below.emplace_back(at::Device(at::kCPU));
    } else {
      below.push_back(value);
    }
  }
  if (seen.any)
    for (auto& value : arguments) {
      if (value.isTensor()) refuse_mix(name, value.toTensor());
      if (value.isTensorList())
        for (const at::Tensor& one : value.toTensorVector()) refuse_mix(name, one);
    }
  {
    at::AutoDispatchBelowADInplaceOrView guard;
    op.callBoxed(&below);
  }
  for (auto& [card, made] : seen.grown) {
    if (card.sizes() != made.sizes()) card.resize_(made.sizes());
    card.copy_(made);
  }
  bool up = seen.any || asked;
  for (auto& value : below) {
    if (up && value.isTensor()) {
      stack->emplace_back(raised(value.toTensor(), seen));
    } else if (up && value.isTensorList()) {
      std::vector<at::Tensor> parts;
      for (const at::Tensor& one : value.toTensorVector()) parts.push_back(raised(one, seen));
      stack->emplace_back(parts);
    } else {
      stack->push_back(value);
    }
  }
}

at::Tensor empty(c10::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                 std::optional<at::Device>, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(size, &allocator, c10::DispatchKeySet(c10::DispatchKey::CUDA),
                                   c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<at::ScalarType> dtype,
                         std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(size, stride, &allocator, c10::DispatchKeySet(c10::DispatchKey::CUDA),
                                           c10::dtype_or_default(dtype));
}

// What was asked of another stream than the usual one is done as late as may be: when someone waits for it.
thread_local int64_t stream = 0;
std::recursive_mutex queues_lock;
std::map<int64_t, std::vector<std::function<void()>>> queues;
std::map<int64_t, int64_t> done;

void flush(int64_t which, int64_t until) {  // until: how many of all that were ever asked; below 0: all
  std::lock_guard<std::recursive_mutex> lock(queues_lock);
  auto& queue = queues[which];
  auto all = done[which] + static_cast<int64_t>(queue.size());
  auto due = (until < 0 ? all : std::min(until, all)) - done[which];
  if (due <= 0) return;
  std::vector<std::function<void()>> now(queue.begin(), queue.begin() + due);
  queue.erase(queue.begin(), queue.begin() + due);
  done[which] += due;
  for (auto& each : now) each();
}

int64_t asked(int64_t which) {
  std::lock_guard<std::recursive_mutex> lock(queues_lock);
  return done[which] + static_cast<int64_t>(queues[which].size());
}

void enter(int64_t which) { stream = which; }
int64_t inside() { return stream; }

at::Tensor& copy_(at::Tensor& self, const at::Tensor& source, bool non_blocking) {
  at::AutoDispatchBelowADInplaceOrView guard;
  if (stream && non_blocking && on_card(self) != on_card(source) &&
      is_pinned((on_card(self) ? source : self).const_data_ptr())) {
    auto to = on_card(self) ? seen_by_cpu(self) : self;
    auto from = on_card(source) ? seen_by_cpu(source) : source;
    std::lock_guard<std::recursive_mutex> lock(queues_lock);
    queues[stream].push_back([to, from]() mutable {
      at::AutoDispatchBelowADInplaceOrView guard;
      to.copy_(from);
    });
    return self;
  }
  if (stream) flush(stream, -1);
  auto to = on_card(self) ? seen_by_cpu(self) : self;
  to.copy_(on_card(source) ? seen_by_cpu(source) : source);
  return self;
}

const at::Tensor& resize_(const at::Tensor& self, c10::IntArrayRef size, std::optional<at::MemoryFormat>) {
  auto* impl = self.unsafeGetTensorImpl();
  int64_t count = c10::multiply_integers(size);
  auto wanted = static_cast<size_t>((count + self.storage_offset()) * static_cast<int64_t>(self.itemsize()));
  auto storage = self.storage();
  if (storage.nbytes() < wanted) {
    auto data = allocator.allocate(wanted);
    std::memcpy(data.get(), storage.data(), storage.nbytes());
    storage.set_data_ptr(std::move(data));
    storage.set_nbytes(wanted);
  }
  impl->set_sizes_contiguous(size);
  return self;
}

int64_t choice(const at::Tensor&, const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, double, bool,
               std::optional<double>, bool) {
  return 0;  // by plain products
}

// Of convolutions by groups only the forward pass: the CPU has no kernel of this name.
at::Tensor depthwise(const at::Tensor& x, const at::Tensor& weight, c10::IntArrayRef, const std::optional<at::Tensor>& bias,
                     c10::IntArrayRef stride, c10::IntArrayRef padding, c10::IntArrayRef dilation) {
  at::AutoDispatchBelowADInplaceOrView guard;
  auto own = bias && bias->defined() ? std::optional<at::Tensor>(seen_by_cpu(*bias)) : std::nullopt;
  return moved(at::conv2d(seen_by_cpu(x), seen_by_cpu(weight), own, stride, padding, dilation, x.size(1)));
}

void record_stream(at::Tensor&, c10::Stream) {}

void pin(int64_t place, int64_t size) {
  std::lock_guard<std::mutex> lock(pins_lock);
  pins[reinterpret_cast<const char*>(place)] = static_cast<size_t>(size);
}
void unpin_place(int64_t place) {
  std::lock_guard<std::mutex> lock(pins_lock);
  pins.erase(reinterpret_cast<const char*>(place));
}

void cap(int64_t bytes) { account.cap = bytes; }
int64_t now() { return account.now; }
int64_t peak() { return account.peak; }
void reset_peak() { account.peak = account.now.load(); }

}  // namespace

REGISTER_ALLOCATOR(at::DeviceType::CUDA, &allocator)
namespace c10::impl {
C10_REGISTER_GUARD_IMPL(CUDA, Guard)
}
namespace at {
REGISTER_CUDA_HOOKS(CUDAHooks)
}

TORCH_LIBRARY_IMPL(_, CUDA, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&by_the_cpu>()); }

TORCH_LIBRARY_IMPL(aten, CUDA, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("copy_", &copy_);
  m.impl("resize_", &resize_);
  m.impl("as_strided", &at::native::as_strided_tensorimpl);
  m.impl("view", &at::native::view);
  m.impl("_reshape_alias", &at::native::_reshape_alias);
  m.impl("unfold", &at::native::unfold);
  m.impl("set_.source_Storage_storage_offset", &at::native::set_storage_cpu_);
  m.impl("set_.source_Tensor", &at::native::set_tensor_);
  m.impl("_fused_sdp_choice", &choice);
  m.impl("record_stream", &record_stream);
  m.impl("_conv_depthwise2d", &depthwise);
}

TORCH_LIBRARY(card, m) {
  m.def("cap(int bytes) -> ()", &cap);
  m.def("pin(int place, int size) -> ()", &pin);
  m.def("unpin(int place) -> ()", &unpin_place);
  m.def("flush(int stream, int until) -> ()", &flush);
  m.def("asked(int stream) -> int", &asked);
  m.def("enter(int stream) -> ()", &enter);
  m.def("inside() -> int", &inside);
  m.def("now() -> int", &now);
  m.def("peak() -> int", &peak);
  m.def("reset_peak() -> ()", &reset_peak);
}
