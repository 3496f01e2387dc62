"""Authentication, rate limits, CORS, metrics and traces, for whatever protocol."""
