# The sidecar. EXTRAS are the extras of sidecar/pyproject.toml; add simulator-neural for an image that works offline.
FROM python:3.13-slim AS build
ARG EXTRAS=codecs,otel
WORKDIR /src
RUN python3 -m venv --without-pip /opt/venv
COPY constraints.txt ./
COPY sidecar ./sidecar
RUN pip --python /opt/venv/bin/python install --no-cache-dir --disable-pip-version-check \
    -c constraints.txt "./sidecar[$EXTRAS]"

FROM python:3.13-slim
# This folder is for a Unix socket. A volume that is mounted there belongs to this user, and its group may enter.
RUN groupadd --gid 10001 sidecar \
    && useradd --system --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin sidecar \
    && install -d -o 10001 -g 10001 -m 0750 /run/slng
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 SIDECAR_HOST=0.0.0.0
USER 10001
EXPOSE 8765
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s CMD ["slng-sidecar", "wait", "--timeout", "0"]
ENTRYPOINT ["slng-sidecar"]
CMD ["serve"]
