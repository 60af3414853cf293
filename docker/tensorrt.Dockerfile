# Builds and proves engines: nm2trt in an image that has TensorRT and its Python package.
#   docker build -f docker/tensorrt.Dockerfile --build-arg TENSORRT_IMAGE=... -t nm2trt .
# docs/containers.md names NVIDIA's image. There is no default: its TensorRT must be that of the server that loads the plan.
ARG TENSORRT_IMAGE
FROM ${TENSORRT_IMAGE}

WORKDIR /opt/nm2trt
COPY . .
# The environment sees the image's TensorRT; the last line fails here, and not at the first build, if there is none.
RUN python3 -m venv --system-site-packages /opt/venv \
    && /opt/venv/bin/python -m pip install --no-cache-dir --constraint constraints.txt \
        --editable '.[torch,ort,serving,recipes,report,dev]' \
    && touch /opt/venv/.ready \
    && /opt/venv/bin/python -c "import tensorrt; print(tensorrt.__version__)"

# `make gpu-evidence OUT=DIR` takes this environment, and installs nothing.
ENV VENV=/opt/venv PATH=/opt/venv/bin:$PATH
WORKDIR /work
ENTRYPOINT ["nm2trt"]
CMD ["doctor"]
