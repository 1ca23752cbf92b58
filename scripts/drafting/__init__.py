"""What `scripts/drafts.py` is made of."""
