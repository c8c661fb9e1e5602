#!/bin/sh
# Checks the sources of the CPU with clang-tidy (.clang-tidy): make tidy. $1: the folder of python and clang-tidy.
set -eu
bin=$1
build=build/tidy
"$bin"/cmake -S . -B $build -G Ninja -DCMAKE_MAKE_PROGRAM="$bin"/ninja -DCMAKE_EXPORT_COMPILE_COMMANDS=ON \
  -DSKBUILD_PROJECT_VERSION=0.0.0 -DFASTGAN_CUDA=OFF -DPython_EXECUTABLE="$bin"/python \
  -Dpybind11_DIR="$("$bin"/python -m pybind11 --cmakedir)" > $build.log
# Once for each file, with the flags of the newest instruction set; without those of g++ alone.
"$bin"/python - $build/compile_commands.json <<'EOF'
import json, re, sys

commands = {entry["file"]: entry for entry in json.load(open(sys.argv[1]))}
for entry in commands.values():
    entry["command"] = re.sub(r" (-fvect-cost-model|--param|-mprefer-vector-width)=\S+", "", entry["command"])
json.dump(list(commands.values()), open(sys.argv[1], "w"))
EOF
"$bin"/clang-tidy -p $build --quiet --warnings-as-errors='*' --extra-arg=-Wno-unknown-warning-option \
  --extra-arg=-Qunused-arguments csrc/cpu/*.cpp csrc/bindings.cpp csrc/bindings_train.cpp
