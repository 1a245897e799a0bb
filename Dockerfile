# The service with the embedded journal: one container, one volume at /srv/data.
FROM python:3.13.1-slim-bookworm

WORKDIR /srv
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

COPY requirements.txt constraints.txt ./
RUN python -m pip install --no-cache-dir --disable-pip-version-check -c constraints.txt -r requirements.txt

RUN useradd --system --uid 10001 --home-dir /srv relay && mkdir data && chown relay data
COPY app app
COPY config config
COPY wsgi.py .flaskenv ./

USER relay
VOLUME /srv/data
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=15s \
  CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ.get(\"PORT\") or 8000}/healthz', timeout=4)"]
# Nobody is to steer the server from inside the container, and the user relay could not write the socket.
CMD ["gunicorn", "-c", "config/gunicorn.conf.py", "wsgi:app"]
