"""What is learned: the pretext methods. NumPy and torch only; no Ray, no MLflow, no files."""
