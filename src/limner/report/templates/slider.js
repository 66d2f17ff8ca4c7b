// Shows the samples of one step beside the base's, or those of all steps. Without it all are there.
for (const grid of document.querySelectorAll(".samples")) {
  const heads = [...grid.querySelectorAll(".steps[data-column]")];
  if (heads.length < 3) continue;
  const extra = grid.querySelectorAll(".steps").length - heads.length;
  const cells = [...grid.querySelectorAll("[data-column]")];
  const bar = document.createElement("div");
  const range = Object.assign(document.createElement("input"), { type: "range", min: 1, max: heads.length - 1 });
  const name = document.createElement("output");
  const button = Object.assign(document.createElement("button"), { type: "button" });
  let single = matchMedia("(max-width: 700px)").matches;

  function draw() {
    const column = Number(range.value);
    for (const cell of cells) {
      cell.hidden = single && ![0, column].includes(Number(cell.dataset.column));
    }
    grid.classList.toggle("single", single);
    grid.style.setProperty("--columns", extra + (single ? 2 : heads.length));
    name.textContent = single ? heads[column].textContent : "all steps";
    button.textContent = single ? "Show all steps" : "Show one step";
  }

  bar.className = "slider";
  range.value = heads.length - 1;
  range.setAttribute("aria-label", "Step");
  range.addEventListener("input", () => { single = true; draw(); });
  button.addEventListener("click", () => { single = !single; draw(); });
  bar.append(range, name, button);
  grid.parentElement.before(bar);
  draw();
}
