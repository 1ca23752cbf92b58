"""`/api/ocr`: modes, layout, progress, history."""
