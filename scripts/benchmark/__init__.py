"""What `scripts/bench.py` measures, part by part."""
