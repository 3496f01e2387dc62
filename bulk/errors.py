"""Why a job cannot be done, and why one of its inputs has no answer."""


class JobError(Exception):
    """What was expected of a job, and what there is, in one sentence."""


class UnanswerableError(Exception):
    """Why an input has no answer: a kind, and a sentence."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
