"""`avsr serve`: the page, live captions, and the routes of OpenAI's transcription interface, on FastAPI."""
