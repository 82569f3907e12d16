"""What `import sharpcli as sharp` offers: measuring any PyTorch model, loss and data from Python.

The names that it offers are listed in `sharpcli/__init__.py`."""
