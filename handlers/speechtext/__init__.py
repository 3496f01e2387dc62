"""Speech recognition and text tasks as a library: models in, typed answers out, no server.

`speechtext.speech` transcribes recordings and live speech, `speechtext.text` answers and explains
texts. Nothing here knows of a server: adapters turn requests into calls, answers into whatever
their protocol wants, and the classes of `speechtext.errors` into its statuses.
"""
