from ocr_mlx.utils.blas import load_blas

load_blas()
