{
  "variables": {
    # "address" (with undefined behaviour) or "thread"; the test suite's sanitizer runs set it
    "sanitize%": "",
    # the instruction sets that native/cpu is compiled for; native/build.mjs leaves out what SONDE_ISAS does not name
    "isas%": ",portable,avx2,avx512,avx512_bf16,",
    # native/cpu/*.cc but for the two that are compiled once: one file per operation, found by folder
    "cpu_kernels": [
      "<!@(node -p \"require('fs').readdirSync('native/cpu').filter(f=>f.endsWith('.cc')&&f!=='backend.cc'&&f!=='threads.cc').map(f=>'native/cpu/'+f).join(' ')\")"
    ]
  },
  "target_defaults": {
    "default_configuration": "Release",
    "cflags_cc!": ["-std=gnu++17", "-std=gnu++20", "-fno-exceptions"],
    "cflags_cc": [
      "-std=c++20", "-Wall", "-Wextra", "-fvisibility=hidden", "-fvisibility-inlines-hidden", "-fno-math-errno"
    ],
    # a * b + c is fused only where the source says so: every instruction set's remainder loops then give the same bits
    "cflags": ["-ffp-contract=off"],
    "xcode_settings": {
      "CLANG_CXX_LANGUAGE_STANDARD": "c++20",
      "GCC_ENABLE_CPP_EXCEPTIONS": "YES",
      "GCC_SYMBOLS_PRIVATE_EXTERN": "YES",
      "MACOSX_DEPLOYMENT_TARGET": "12.0",
      "OTHER_CPLUSPLUSFLAGS": ["-ffp-contract=off", "-fno-math-errno"]
    },
    "conditions": [
      ["sanitize=='address'", {
        "cflags": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1", "-fno-omit-frame-pointer"],
        "ldflags": ["-fsanitize=address,undefined"]
      }],
      ["sanitize=='thread'", {
        "cflags": ["-fsanitize=thread", "-g", "-O1"],
        "ldflags": ["-fsanitize=thread"]
      }]
    ]
  },
  "targets": [
    {
      "target_name": "sonde",
      "sources": [
        "native/addon/addon.cc", "native/addon/device_memory.cc", "native/addon/results.cc", "native/addon/profile.cc",
        "native/device_queue.cc", "native/buffer.cc", "native/cuda_loader.cc", "native/cpu/backend.cc",
        "native/cpu/threads.cc"
      ],
      "include_dirs": [
        "<!(node -p \"require('node-api-headers').include_dir\")",
        "<!(node -p \"require('node-addon-api').include_dir\")"
      ],
      "defines": [
        "NAPI_VERSION=9", "NAPI_CPP_EXCEPTIONS", "NODE_ADDON_API_CPP_EXCEPTIONS_ALL", "NODE_ADDON_API_DISABLE_DEPRECATED",
        "SONDE_ISAS=\"<(isas)\""
      ],
      "conditions": [
        ["',portable,' in isas", { "dependencies": ["cpu_portable"] }],
        ["target_arch=='x64' and ',avx2,' in isas", { "dependencies": ["cpu_avx2"] }],
        ["target_arch=='x64' and ',avx512,' in isas", { "dependencies": ["cpu_avx512"] }],
        ["target_arch=='x64' and ',avx512_bf16,' in isas", { "dependencies": ["cpu_avx512_bf16"] }],
        ["OS=='linux'", { "ldflags": ["-Wl,-z,now"], "libraries": ["-ldl"] }]
      ]
    }
  ],
  "conditions": [
    ["',portable,' in isas", {
      "targets": [
        {
          "target_name": "cpu_portable",
          "type": "static_library",
          "sources": ["<@(cpu_kernels)"],
          "defines": ["SONDE_ISA=portable"]
        }
      ]
    }],
    ["target_arch=='x64' and ',avx2,' in isas", {
      "targets": [
        {
          "target_name": "cpu_avx2",
          "type": "static_library",
          "sources": ["<@(cpu_kernels)"],
          "defines": ["SONDE_ISA=avx2"],
          "cflags": ["-mavx2", "-mfma", "-mf16c"],
          "xcode_settings": { "OTHER_CPLUSPLUSFLAGS": ["-ffp-contract=off", "-mavx2", "-mfma", "-mf16c"] }
        }
      ]
    }],
    ["target_arch=='x64' and ',avx512,' in isas", {
      "targets": [
        {
          "target_name": "cpu_avx512",
          "type": "static_library",
          "sources": ["<@(cpu_kernels)"],
          "defines": ["SONDE_ISA=avx512"],
          # gcc 12 reports its own AVX-512 intrinsics as uninitialized
          "cflags": [
            "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mf16c", "-mprefer-vector-width=512",
            "-Wno-uninitialized", "-Wno-maybe-uninitialized"
          ],
          "xcode_settings": {
            "OTHER_CPLUSPLUSFLAGS": [
              "-ffp-contract=off", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mf16c"
            ]
          }
        }
      ]
    }],
    ["target_arch=='x64' and ',avx512_bf16,' in isas", {
      "targets": [
        {
          "target_name": "cpu_avx512_bf16",
          "type": "static_library",
          "sources": ["<@(cpu_kernels)"],
          "defines": ["SONDE_ISA=avx512_bf16"],
          "cflags": [
            "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512bf16", "-mfma", "-mf16c", "-mprefer-vector-width=512",
            "-Wno-uninitialized", "-Wno-maybe-uninitialized"
          ],
          "xcode_settings": {
            "OTHER_CPLUSPLUSFLAGS": [
              "-ffp-contract=off", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512bf16", "-mfma", "-mf16c"
            ]
          }
        }
      ]
    }]
  ]
}
