"""A run as a person follows it: the terminal, a report, a chart, TensorBoard."""
