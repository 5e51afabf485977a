# A service in a container. It builds the package from this repository, and runs one of its examples.
# For a service of your own, replace the last COPY by your program and its requirements.
FROM python:3.13-slim AS wheels
COPY . /source
RUN pip wheel --no-cache-dir --wheel-dir /wheels /source

FROM python:3.13-slim
RUN --mount=type=bind,from=wheels,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links /wheels kafka-nursery
# The output appears at once, also in a pipe.
ENV PYTHONUNBUFFERED=1
WORKDIR /service
COPY examples/enrichment.py service.py
# A user without rights and without files.
USER 65532:65532
# A list starts Python itself, and no shell. So Python is the process that gets SIGTERM.
ENTRYPOINT ["python", "service.py"]
CMD ["kafka://127.0.0.1:9092"]
