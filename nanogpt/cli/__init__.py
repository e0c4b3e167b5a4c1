"""The front doors: what `train.py`, `sample.py` and `visualize.py` take, say and exit with."""
