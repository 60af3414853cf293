# Serves what `nm2trt deploy` wrote: Triton, with ONNX Runtime for the models of its Python backend.
#   docker build -f docker/triton.Dockerfile --build-arg TRITON_IMAGE=... -t nm2trt-triton .
# docs/containers.md names NVIDIA's image. There is no default: a plan loads only in the TensorRT that built it.
ARG TRITON_IMAGE
FROM ${TRITON_IMAGE}

# numpy stays at the version that the tests run the server with; with numpy 2 an older stub answers with wrong outputs.
COPY constraints-serve.txt /opt/nm2trt/
RUN python3 -m pip install --no-cache-dir --constraint /opt/nm2trt/constraints-serve.txt onnxruntime numpy

USER 1000
EXPOSE 8000 8001 8002
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=6 \
    CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/v2/health/ready')"]
CMD ["tritonserver", "--model-repository=/models", "--model-control-mode=explicit", "--load-model=*", "--exit-timeout-secs=30"]
