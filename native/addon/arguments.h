// Reads the arguments of a native call as values of C++, by their types.
#pragma once
#include <napi.h>

#include <memory>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "handles.h"

namespace sonde {

inline int64_t integer(const Napi::CallbackInfo& info, size_t index) {
  if (!info[index].IsNumber()) {
    throw Napi::TypeError::New(info.Env(), "argument " + std::to_string(index) + " of a native call must be a number");
  }
  return info[index].As<Napi::Number>().Int64Value();
}

inline DType dtype_of(const Napi::CallbackInfo& info, size_t index) {
  const int64_t code = integer(info, index);
  if (code < 0 || code > int64_t(DType::boolean)) throw Napi::RangeError::New(info.Env(), "no such dtype");
  return DType(code);
}

struct HostBytes {
  char* data;
  size_t bytes;
};

inline HostBytes host_bytes(const Napi::CallbackInfo& info, size_t index) {
  if (!info[index].IsTypedArray()) throw Napi::TypeError::New(info.Env(), "a typed array is missing");
  auto array = info[index].As<Napi::TypedArray>();
  return {static_cast<char*>(array.ArrayBuffer().Data()) + array.ByteOffset(), array.ByteLength()};
}

// ---- arguments of operations

// Keeps the memory that an operation's arguments point to until the operation has run.
using KeepAlive = std::vector<std::shared_ptr<void>>;

template <class Handle, class T>
T read_view(const Napi::CallbackInfo& info, size_t index, KeepAlive& kept) {
  T view;
  if (info[index].IsNull()) return view;
  const Handle& held = unwrap<Handle>(info, index);
  if (held.buffer->released()) {
    throw Napi::Error::New(info.Env(), "argument " + std::to_string(index) + " of a native call was disposed");
  }
  static_cast<View&>(view) = held;
  kept.push_back(held.buffer);
  return view;
}

template <class T>
T read_argument(const Napi::CallbackInfo& info, size_t index, KeepAlive& kept) {
  if constexpr (std::is_same_v<T, Packed> || std::is_same_v<T, PackedOut>) {
    return read_view<PackedView, T>(info, index, kept);
  } else if constexpr (std::is_base_of_v<View, T>) {
    return read_view<TensorView, T>(info, index, kept);
  } else if constexpr (std::is_same_v<T, CsrOut>) {
    auto& csr = unwrap<std::shared_ptr<Csr>>(info, index);
    kept.push_back(csr);
    return {csr.get()};
  } else if constexpr (std::is_same_v<T, bool>) {
    return info[index].ToBoolean();
  } else if constexpr (std::is_floating_point_v<T>) {
    return T(info[index].ToNumber().DoubleValue());
  } else {
    return T(integer(info, index));
  }
}

template <class... A, size_t... I>
std::tuple<A...> read_arguments(const Napi::CallbackInfo& info, KeepAlive& kept, std::index_sequence<I...>) {
  return {read_argument<A>(info, I + 1, kept)...};  // the device comes first
}

}  // namespace sonde
