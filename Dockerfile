FROM python:3.13-slim AS build
WORKDIR /src
RUN python3 -m venv /opt/venv
COPY constraints.txt ./
COPY sidecar ./sidecar
RUN /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check -c constraints.txt './sidecar[codecs,simulator]'

FROM python:3.13-slim
RUN useradd --system --uid 10001 --no-create-home sidecar
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 SIDECAR_HOST=0.0.0.0
USER 10001
EXPOSE 8765
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s CMD ["slng-sidecar", "wait", "--timeout", "0"]
ENTRYPOINT ["slng-sidecar"]
CMD ["serve"]
