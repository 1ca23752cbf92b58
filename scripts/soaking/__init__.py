"""What `scripts/soak.py` asks for, of whom, and how it judges the answers."""
