"""OpenAI's Realtime protocol, for transcription: events over a WebSocket."""
