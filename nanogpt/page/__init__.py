"""The attention page: one file that shows what every head of a model does."""
