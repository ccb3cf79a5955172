# The one recipe for every image; arguments come from images/<chip>/image.toml. Needs no network: the build context is a
# wheelhouse, its lock and the vendor's patches. Two stages, so that the wheels stay out of the image; no syntax that only one builder knows.
ARG BASE
FROM ${BASE} AS build
LABEL chipassay.stage=build
COPY . /context
ENV PYTHONDONTWRITEBYTECODE=1
RUN python3 -m venv /opt/venv \
 && /opt/venv/bin/python -m pip install --quiet --no-index --find-links /context/wheels --require-hashes --no-deps \
    --no-cache-dir --no-compile --requirement /context/install.lock \
 && /opt/venv/bin/python -m pip --quiet uninstall --yes pip setuptools \
 && /opt/venv/bin/python -I /context/patching.py /context/patches \
 && (/opt/venv/bin/python -m compileall -qq -j 0 --invalidation-mode unchecked-hash /opt/venv/lib \
     || echo "files written for a newer Python stay uncompiled")

FROM ${BASE}
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 HOME=/tmp USER=worker
USER 65532:65532
ENTRYPOINT ["/opt/venv/bin/python"]
