"""Layers: adapters, quantized linear layers, attention, dropout."""
