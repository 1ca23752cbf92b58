"""Qwen2-VL, the graph of QARI: pictures at their own resolution, positions in three dimensions."""
