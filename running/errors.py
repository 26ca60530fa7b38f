"""The one error that is meant for the person at the keyboard."""


class UserError(ValueError):
    """What the user can mend: a wrong flag, file or folder. Its message is one line that names the
    thing and the remedy; a command prints it and ends with exit code 2."""
