# The page in a container, with a CUDA build of PyTorch; for the CPU alone: docker build --build-arg TORCH=cpu .
# docs/deploy.md says how to run it.
FROM python:3.12-slim
ARG TORCH=cu130

# Triton compiles the code that starts a kernel.
RUN if [ "$TORCH" != cpu ]; then \
        apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*; \
    fi

WORKDIR /app
COPY requirements.txt ./
RUN python -m pip install --no-cache-dir "torch>=2.13,<3" --index-url "https://download.pytorch.org/whl/$TORCH" && \
    python -m pip install --no-cache-dir -r requirements.txt
COPY LICENSE app.py weights_manifest.yaml ./
COPY assets assets
COPY janus_app janus_app

# Downloaded models and conversations are in /data, pictures in /app/outputs.
RUN useradd --create-home janus && install -d -o janus /data outputs
USER janus
ENV HF_HOME=/data/huggingface JANUS_APP_DATA=/data/janus_app PYTHONUNBUFFERED=1
VOLUME ["/data", "/app/outputs"]
EXPOSE 7860
ENTRYPOINT ["python", "app.py", "--host", "0.0.0.0", "--port", "7860", "--no-browser"]
