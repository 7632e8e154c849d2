# A stand-in for Node's common.gypi: enough for an addon that uses Node-API alone, so that building needs no Node headers
# and no download. node-gyp is pointed here by "config.node_gyp_nodedir" in package.json.
{
  "variables": { "visibility%": "hidden", "library%": "static_library", "host_arch%": "<(target_arch)" },
  "target_defaults": {
    "default_configuration": "Release",
    "configurations": {
      "Release": { "cflags": ["-O3"], "defines": ["NDEBUG"] },
      "Debug": { "cflags": ["-g", "-O0"], "defines": ["DEBUG"] }
    },
    "cflags": ["-fPIC", "-pthread"],
    "ldflags": ["-pthread"],
    "cflags_cc": ["-fno-exceptions"]
  }
}
