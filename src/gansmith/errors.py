"""The errors that others catch. What a person can mend is one line: what, where, and what would be right."""


class UserError(ValueError):
    """Bad input. The command line prints its text as one line and exits with code 2."""


class OutOfMemory(UserError):
    """A device has not the memory that a round takes; the text says which settings take less."""


class NonFinite(ArithmeticError):
    """A loss or a gradient is not finite; raised before any weight of that move is touched."""


class Diverged(RuntimeError):
    """A training ended on a loss or a gradient that is not finite; the text says where, what is kept, what to try."""


class RankLost(RuntimeError):
    """One of several processes that train together is gone, and the others cannot go on without it."""
