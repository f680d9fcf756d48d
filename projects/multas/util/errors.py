"""The mistakes of a user."""


class UserError(ValueError):
    """Something that the user can put right.

    The message names the file, key or layer and says what would be right. A command line shows the
    message alone, see :func:`multas.util.command_line.run`; any other error is one of the program
    and keeps its traceback.
    """
