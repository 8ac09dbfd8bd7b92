# The image of deploy/kubernetes: docker build -t omnipam:0.1.0 .
# Everything that is installed is in requirements.lock, by hash; of that the image gets what omnipam[kubernetes] needs.
FROM python:3.13-slim AS build
WORKDIR /src
COPY requirements.lock ./
RUN pip download --require-hashes --only-binary :all: --dest /wheels -r requirements.lock \
 && pip install --no-index --find-links /wheels --upgrade setuptools
COPY pyproject.toml README.md LICENSE ./
COPY core core
COPY providers providers
COPY runtime runtime
COPY fixtures fixtures
COPY src src
RUN pip wheel --no-index --no-deps --no-build-isolation --wheel-dir /wheels . \
 && python -m venv /opt/omnipam \
 && /opt/omnipam/bin/pip install --no-index --find-links /wheels "omnipam[kubernetes]" \
 && /opt/omnipam/bin/pip uninstall --yes pip

FROM python:3.13-slim
COPY --from=build /opt/omnipam /opt/omnipam
ENV PATH=/opt/omnipam/bin:$PATH
USER 65532:65532
ENTRYPOINT ["omnipam"]
