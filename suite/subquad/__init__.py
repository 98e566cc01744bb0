"""Efficient-attention benchmarks: time, memory and accuracy, with intervals."""
