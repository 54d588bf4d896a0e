# docker build -t msvit_mm .
# docker run --rm --gpus all --shm-size 8g -v "$PWD/data:/work/data" -v "$PWD/work_dirs:/work/work_dirs" msvit_mm \
#     msvit train CONFIG
FROM python:3.11-slim-bookworm
RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential libgl1 libglib2.0-0 make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/msvit_mm
COPY requirements.txt ./
RUN pip install --no-cache-dir -r requirements.txt
COPY . .
RUN pip install --no-cache-dir --no-deps -e .
WORKDIR /work
CMD ["msvit", "--help"]
