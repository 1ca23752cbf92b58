"""`/api/inference`: one document in, its text out."""
