"""What puts a running server to the test: broken requests, faults and load."""
