# For machines with NVIDIA GPUs: torch's wheels bring CUDA, the machine its driver and the container toolkit.
#   docker build -t specs .
#   docker run --gpus all --shm-size 16g -v "$PWD:/work" specs doctor
FROM python:3.11-slim

# Triton and vLLM compile kernels as they run.
RUN apt-get update && apt-get install -y --no-install-recommends build-essential && rm -rf /var/lib/apt/lists/*

COPY pyproject.toml README.md LICENSE /src/
COPY specs_lightning /src/specs_lightning
COPY configs /src/configs
RUN pip install --no-cache-dir "/src[vllm,smolvlm,quantization]" && rm -r /src

WORKDIR /work
ENTRYPOINT ["specs"]
