# docker build -t msvit_mm . && docker run --rm -v "$PWD/data:/work/data" msvit_mm msvit --help
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
