# The example bot of the Pipecat plugin, for 'docker compose up'.
FROM python:3.13-slim AS build
WORKDIR /src
RUN python3 -m venv --without-pip /opt/venv
COPY constraints.txt ./
COPY plugin ./plugin
RUN pip --python /opt/venv/bin/python install --no-cache-dir --disable-pip-version-check \
    -c constraints.txt './plugin[examples]'

FROM python:3.13-slim
# Pipecat's WebRTC transport depends on OpenCV, which needs these libraries.
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends libglib2.0-0 && rm -rf /var/lib/apt/lists/*
# This folder is for the sidecar's Unix socket. It is the same as in the sidecar's image, because a new volume takes its
# owner and mode from whichever container starts first.
RUN useradd --system --uid 10002 --create-home --shell /usr/sbin/nologin bot \
    && install -d -o 10001 -g 10001 -m 0750 /run/slng
COPY --from=build /opt/venv /opt/venv
COPY plugin/examples/bot.py plugin/examples/talk.html /opt/bot/
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10002
WORKDIR /home/bot
EXPOSE 7860
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:7860/talk', timeout=3)"]
CMD ["python", "/opt/bot/bot.py", "--host", "0.0.0.0", "-t", "webrtc"]
