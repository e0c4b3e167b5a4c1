"""The attention page: one HTML file that shows what every head of a model attends to."""
