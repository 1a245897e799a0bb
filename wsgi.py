"""The app for gunicorn; starts the carriers, which also take up what an earlier process left behind."""

from app import EXTENSION, create_app

app = create_app()
app.extensions[EXTENSION].start()
