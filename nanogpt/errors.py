"""The one exception for input that a person can mend."""


class InputError(ValueError):
    """Bad input, told in one line that says what to change. The front doors print it and exit with 2."""
