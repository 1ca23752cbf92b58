"""Jobs of many machines: kept in Redis, coordinated by servers, read by `ocr_mlx worker`s."""
