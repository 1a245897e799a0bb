# The service with the embedded journal: one container, one volume at /srv/data. It writes nowhere else, so its root
# file system may be read-only.
ARG PYTHON=3.13.18-slim-trixie

FROM python:${PYTHON} AS build
WORKDIR /srv
COPY requirements.lock ./
# No compiler is here, nor pip in what is made; and nothing but what was pinned, to the last byte.
RUN python -m venv --without-pip venv && \
  python -m pip --python venv --no-cache-dir --disable-pip-version-check install --only-binary :all: --require-hashes -r requirements.lock
COPY app app
COPY config config
COPY wsgi.py .flaskenv ./
# It never changes, so nobody needs to look whether it did.
RUN python -m compileall -q --invalidation-mode unchecked-hash app && rm requirements.lock

FROM python:${PYTHON}
WORKDIR /srv
RUN groupadd --gid 10001 relay && useradd --uid 10001 --gid relay --home-dir /srv --no-create-home --shell /usr/sbin/nologin relay
RUN mkdir data && chown 10001:10001 data
COPY --from=build /srv ./
# What is temporary goes to memory, but SQLite's larger sorts into the volume. With an arena of glibc's for each
# of its many threads it would keep 10 to 15 MB more, and for an hour more and more (bench/README.md, the soak).
ENV PATH=/srv/venv/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 TMPDIR=/dev/shm SQLITE_TMPDIR=/srv/data MALLOC_ARENA_MAX=2

# By its number, so that Kubernetes can see that it is not root.
USER 10001:10001
VOLUME /srv/data
EXPOSE 8000
# gunicorn then takes nothing new and finishes what is under way, 30 seconds at most: give it 40 before a kill.
STOPSIGNAL SIGTERM
# Not urllib, which would ask a proxy that the environment names.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
  CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('PORT') or 8000), timeout=4); c.request('GET', '/healthz'); sys.exit(c.getresponse().status != 200)"]
# Nobody is to steer the server from inside the container, and its user could not write the socket.
CMD ["gunicorn", "-c", "config/gunicorn.conf.py", "wsgi:app"]

ARG VERSION=0.1.0
ARG COMMIT=unknown
LABEL org.opencontainers.image.title="Kommo Relay" \
  org.opencontainers.image.description="Carries deal stages from Kommo to Encharge and Ortto, and email activity back." \
  org.opencontainers.image.licenses="MIT" \
  org.opencontainers.image.version="${VERSION}" \
  org.opencontainers.image.revision="${COMMIT}"
