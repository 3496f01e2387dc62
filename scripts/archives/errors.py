"""Why there is no archive."""


class BuildError(Exception):
    """Why an archive could not be built, in one sentence."""


class SourceError(Exception):
    """A source that cannot become an archive, in one sentence that says what to pass instead."""
