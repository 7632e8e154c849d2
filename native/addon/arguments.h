// Reads the arguments of a native call as values of C++, by their types.
#pragma once
#include <napi.h>

#include <memory>
#include <string>
#include <tuple>
#include <type_traits>

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

// JavaScript writes the arguments of an operation into one array of numbers, in the order of native/ops.h, each as one of
// these and what follows it. Where several operations are queued together, the number of each comes before its arguments.
// An object of native code for each tensor would cost more than a small operation takes.
enum class Kind : int32_t {
  absent = 0,  // an argument that was left out
  number = 1,  // value; a bool is 0 or 1
  view = 2,    // number of the buffer, dtype, offset, rank, shape, strides, in elements
  packed = 3,  // number of the buffer, dtype, K, N
  csr = 4,     // the handle is an argument of the call itself
};

// Keeps the memory of a CSR result until its operation has run. Device memory needs no such care: a block that is given
// back is used again only by what is queued later.
using KeepAlive = std::shared_ptr<Csr>;

class Arguments {
 public:
  // The call's arguments are the device, the array's buffer, and the handle of a CSR result or nothing.
  explicit Arguments(const Napi::CallbackInfo& info) : info_(info), device_(*device_of(info)) {
    if (!info[1].IsArrayBuffer()) throw Napi::TypeError::New(info.Env(), "the arguments of a native call are missing");
    auto numbers = info[1].As<Napi::ArrayBuffer>();
    at_ = static_cast<const double*>(numbers.Data());
    end_ = at_ + numbers.ByteLength() / sizeof(double);
  }

  bool at_end() const { return at_ == end_; }

  // The number of the operation that comes next, whose arguments are counted from 1 again.
  int64_t operation() {
    index_ = 0;
    return integer();
  }

  template <class T>
  T next(KeepAlive& kept) {
    ++index_;
    const Kind kind = Kind(integer());
    T value = {};
    if constexpr (std::is_base_of_v<View, T>) {
      constexpr bool is_packed = std::is_same_v<T, Packed> || std::is_same_v<T, PackedOut>;
      if (kind == Kind::absent) return value;
      demand(kind == (is_packed ? Kind::packed : Kind::view), is_packed ? "a packed matrix" : "a view");
      if constexpr (is_packed) read_packed(value);
      else read_view(value);
    } else if constexpr (std::is_same_v<T, CsrOut>) {
      demand(kind == Kind::csr, "a CSR result");
      kept = unwrap<std::shared_ptr<Csr>>(info_, 2);
      value.csr = kept.get();
    } else {
      demand(kind == Kind::number, "a number");
      if constexpr (std::is_floating_point_v<T>) value = T(number());
      else value = T(integer());
    }
    return value;
  }

 private:
  void demand(bool holds, const char* expected) const {
    if (holds) return;
    throw Napi::TypeError::New(
        info_.Env(), "argument " + std::to_string(index_) + " of a native call must be " + expected + ", but is none");
  }

  double number() {
    if (at_ == end_) throw Napi::RangeError::New(info_.Env(), "the arguments of a native call end too early");
    return *at_++;
  }

  int64_t integer() {
    const double value = number();
    constexpr double kLargest = 9007199254740992;  // 2^53
    demand(value >= -kLargest && value <= kLargest, "an integer");
    return int64_t(value);
  }

  DType dtype() {
    const int64_t code = integer();
    if (code < 0 || code > int64_t(DType::boolean)) throw Napi::RangeError::New(info_.Env(), "no such dtype");
    return DType(code);
  }

  const Buffer& buffer() {
    const Buffer* found = device_.buffers.find(integer());
    demand(found != nullptr, "in a buffer of its device");
    if (found->data) return *found;
    throw Napi::Error::New(info_.Env(), "argument " + std::to_string(index_) + " of a native call was disposed");
  }

  void read_view(View& view) {
    const Buffer& memory = buffer();
    view.dtype = dtype();
    const int64_t offset = integer();
    const int64_t rank = integer();
    if (rank < 0 || rank > kMaxRank) throw Napi::RangeError::New(info_.Env(), "bad rank");
    view.rank = int32_t(rank);
    for (int d = 0; d < view.rank; ++d) view.shape[d] = integer();
    for (int d = 0; d < view.rank; ++d) view.stride[d] = integer();
    // Every element must lie inside the buffer. Doubles do not overflow, and are exact far beyond any real size.
    double end = double(offset) + 1;
    bool empty = false;
    for (int d = 0; d < view.rank; ++d) {
      if (view.shape[d] < 0 || view.stride[d] < 0) throw Napi::RangeError::New(info_.Env(), "negative shape or stride");
      empty = empty || view.shape[d] == 0;
      end += double(view.shape[d] - 1) * double(view.stride[d]);
    }
    if (offset < 0 || (!empty && end * double(dtype_size(view.dtype)) > double(memory.bytes))) {
      throw Napi::RangeError::New(info_.Env(), "a view would reach outside its buffer");
    }
    view.data = static_cast<char*>(memory.data) + (empty ? 0 : offset * dtype_size(view.dtype));
  }

  void read_packed(View& view) {
    const Buffer& memory = buffer();
    view.dtype = dtype();
    view.rank = 2;
    view.shape[0] = integer();
    view.shape[1] = integer();
    const auto* operations = device_.backend.operations(device_.context);
    if (view.shape[0] < 0 || view.shape[1] < 0 ||
        operations->packed_bytes(view.shape[0], view.shape[1], view.dtype) > int64_t(memory.bytes)) {
      throw Napi::RangeError::New(info_.Env(), "a packed matrix would reach outside its buffer");
    }
    view.data = memory.data;
  }

  const Napi::CallbackInfo& info_;
  Device& device_;
  const double* at_;
  const double* end_;
  int index_ = 0;  // of the argument that is read, from 1; the device comes first
};

}  // namespace sonde
