# The server in a container:
#   docker build -t sparsert . && docker run --rm -p 5543:5543 sparsert
# Another model: docker run ... -v /path/to/model:/model:ro sparsert --host 0.0.0.0 --task question-answering /model
FROM python:3.12-slim

# GNU OpenMP runs the kernels' threads.
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home --uid 10001 sparsert
WORKDIR /app
COPY setup.cfg setup.py pyproject.toml README.md LICENSE ./
COPY sparsert sparsert
RUN pip install --no-cache-dir .

# Compiled kernels go here. They depend on the CPU, so they are made at the first start; a volume keeps them.
ENV NUMBA_CACHE_DIR=/var/cache/sparsert
RUN mkdir /var/cache/sparsert && chown sparsert /var/cache/sparsert
VOLUME /var/cache/sparsert

USER sparsert
EXPOSE 5543
HEALTHCHECK --interval=10s --start-period=120s CMD ["python", "-c", "import sys; from sparsert.client import Client; sys.exit(not Client(timeout=5).ready())"]
# Gunicorn drains on SIGTERM, which is what docker stop sends.
ENTRYPOINT ["sparsert.server"]
CMD ["--host", "0.0.0.0", "--task", "question-answering"]
