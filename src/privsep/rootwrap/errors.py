"""What is wrong with a policy, and with the files that it names.

Runs in the privileged process.
"""

from privsep.errors import PrivsepError


class BadPolicy(PrivsepError, ValueError):
    """The policy cannot be used; the message has the file, the line and the reason.

    Nothing was run.  The program ends with 97.
    """

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(f"{place}: {reason}")


class Differs(Exception):
    """A command is not what a filter allows; the message says in what.

    Between a filter and the judge, which collects the reasons.
    """


class Missing(Exception):
    """What a filter allows has no executable; the message says which."""
