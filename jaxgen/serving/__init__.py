"""The server: requests of many clients in a few compiled programs, behind OpenAI's API."""
