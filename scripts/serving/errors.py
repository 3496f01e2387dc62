"""Why there is no server."""


class ServerError(Exception):
    """Why a server did not start, in one sentence, with the last log lines where they help."""
