"""`/llm/ocr`: an engine elsewhere reads."""
