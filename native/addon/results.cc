// Methods that wait for a device and return results: reading, synchronizing, CSR results, the rates of the device.
#include <napi.h>

#include <cstdlib>
#include <cstring>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <utility>

#include "../views.h"
#include "arguments.h"
#include "handles.h"
#include "methods.h"

namespace sonde {
namespace {

// A promise that has not been settled yet, and the result that it will have.
struct Completion {
  explicit Completion(Napi::Env env) : deferred(env) {}
  Completion(Napi::Env env, Napi::Object host) : deferred(env), host(Napi::Persistent(host)) {}
  Napi::Promise::Deferred deferred;
  Napi::ObjectReference host;  // the array that is written to, kept alive until the promise is settled
  std::shared_ptr<Csr> csr;
  std::string error;
  double number = 0;  // the promise's value, if has_number
  bool has_number = false;
  std::function<double()> check;  // gives the promise's value when the work is done, on a thread of the device
  Pending* pending = nullptr;
};

// Settles the promise of a completion, on the JavaScript thread. It must be in this file: node-addon-api compares its
// address with null at compile time, and g++ with a sanitizer can do that only for a function of the same file.
void settle(Napi::Env env, Napi::Function, Device* device, Completion* completion);
using Notifier = Napi::TypedThreadSafeFunction<Device, Completion, settle>;

// ---- CSR results

bool reserve(Csr* csr, int64_t count) {
  const size_t n = size_t(count) + 1;
  auto* indices = static_cast<int32_t*>(realloc(csr->indices, n * sizeof(int32_t)));
  if (!indices) return false;
  csr->indices = indices;
  auto* values = static_cast<float*>(realloc(csr->values, n * sizeof(float)));
  if (!values) return false;
  csr->values = values;
  return true;
}

Napi::Value make_csr(const Napi::CallbackInfo& info) {
  const int64_t rows = integer(info, 0);
  if (rows < 0) throw Napi::RangeError::New(info.Env(), "negative number of rows");
  std::shared_ptr<Csr> csr(new Csr(), [](Csr* held) {
    free(held->row_ptr);
    free(held->indices);
    free(held->values);
    delete held;
  });
  csr->rows = rows;
  csr->row_ptr = static_cast<int64_t*>(calloc(size_t(rows) + 1, sizeof(int64_t)));
  csr->reserve = reserve;
  if (!csr->row_ptr) throw Napi::Error::New(info.Env(), "out of memory");
  return wrap(info.Env(), csr, [](Napi::Env, std::shared_ptr<Csr>&) {});
}

Napi::Object csr_object(Napi::Env env, const Csr& csr) {
  const int64_t count = csr.row_ptr[csr.rows];
  auto row_ptr = Napi::BigInt64Array::New(env, size_t(csr.rows) + 1);
  auto indices = Napi::Int32Array::New(env, size_t(count));
  auto values = Napi::Float32Array::New(env, size_t(count));
  memcpy(row_ptr.Data(), csr.row_ptr, (size_t(csr.rows) + 1) * sizeof(int64_t));
  if (count) {
    memcpy(indices.Data(), csr.indices, size_t(count) * sizeof(int32_t));
    memcpy(values.Data(), csr.values, size_t(count) * sizeof(float));
  }
  auto out = Napi::Object::New(env);
  out.Set("rowPtr", row_ptr);
  out.Set("indices", indices);
  out.Set("values", values);
  return out;
}

// ---- waiting

void settle(Napi::Env env, Napi::Function, Device* device, Completion* completion) {
  std::unique_ptr<Completion> done(completion);
  if (!env) {
    done.release()->host.SuppressDestruct();  // the environment is gone, and its references with it
    return;
  }
  if (--device->pending == 0) Notifier(device->notifier).Unref(env);
  if (!done->error.empty()) return done->deferred.Reject(Napi::Error::New(env, done->error).Value());
  if (done->has_number) return done->deferred.Resolve(Napi::Number::New(env, done->number));
  if (!done->csr) return done->deferred.Resolve(env.Undefined());
  done->deferred.Resolve(csr_object(env, *done->csr));
}

// Calls done(error) on a thread of the device when all work that was queued before is done. With take_error, `error` is
// the first failure of that work that was not reported yet, and never one of later work, although the queue goes on.
// `at` is the pending work that is waited for; where the work before left none, it becomes a mark.
template <class Done>
void when_done(Device* device, Pending*& at, bool take_error, Done done) {
  device->queue.push([device, &at, take_error, done = std::move(done)] {
    if (!at) at = device->backend.mark(device->context);
    if (!at) return done(take_error ? device->queue.take_error() : "");
    // The finisher keeps the errors in order: first a failure to begin work before this point, then one that is noticed
    // late.
    device->finisher.push([device, pending = at, take_error, error = device->queue.take_error(), done] {
      const Status status = device->backend.finish(device->context, pending);
      if (!error.empty()) device->finisher.keep_error(error);
      if (status.failed()) device->finisher.keep_error(status.text);
      done(take_error ? device->finisher.take_error() : "");
    });
  });
}

// Returns a promise that is settled when all work that was queued before is done.
Napi::Value settle_later(Napi::Env env, const std::shared_ptr<Device>& device, Completion* completion,
                         bool take_error) {
  if (device->pending++ == 0) Notifier(device->notifier).Ref(env);
  auto promise = completion->deferred.Promise();
  if (completion->csr) {
    // the pending work is known only when the operation has run
    device->queue.push([completion] { completion->pending = std::exchange(completion->csr->pending, nullptr); });
  }
  when_done(device.get(), completion->pending, take_error, [completion, raw = device.get()](std::string error) {
    if (error.empty() && completion->check) completion->number = completion->check();
    completion->error = std::move(error);
    Notifier(raw->notifier).BlockingCall(completion);
  });
  return promise;
}

// ---- values that are not finite

// Whether some magnitude is `limit` or more: adding `above`, which is 2^bits / 2 - limit, sets the highest bit of those.
// Nothing is counted and nothing ends the loop early, so that it runs at the speed of memory.
template <class Bits>
bool reaches(const char* data, size_t count, Bits limit) {
  constexpr Bits sign = Bits(Bits(1) << (sizeof(Bits) * 8 - 1));
  const Bits above = Bits(sign - limit);
  const Bits* values = reinterpret_cast<const Bits*>(data);
  Bits found = 0;
  for (size_t i = 0; i < count; ++i) found = Bits(found | Bits(Bits(values[i] & Bits(~sign)) + above));
  return (found & sign) != 0;
}

// The bits of the smallest magnitude that is not finite when it is rounded from one dtype to another. Between the
// largest number and infinity, the middle is rounded to infinity.
uint32_t overflow(DType from, DType to) {
  if (from == DType::float16) return 0x7c00;
  if (from == DType::bfloat16) return 0x7f80;
  return to == DType::float16 ? 0x477ff000 : to == DType::bfloat16 ? 0x7f7f8000 : 0x7f800000;
}

bool is_not_finite(HostBytes host, DType from, DType to) {
  const size_t count = host.bytes / size_t(dtype_size(from));
  if (from == DType::float32) return reaches<uint32_t>(host.data, count, overflow(from, to));
  return reaches<uint16_t>(host.data, count, uint16_t(overflow(from, to)));
}

bool is_float(DType dtype) { return dtype == DType::float32 || dtype == DType::bfloat16 || dtype == DType::float16; }

// ---- reading and synchronizing

// read(device, numbers, host, dtype, as): the numbers hold the tensor to read -> a promise of 1 if one of the values read
// is not finite when it is rounded to the dtype `as`, else of 0; of nothing if `as` is null
Napi::Value read(const Napi::CallbackInfo& info) {
  auto& device = device_of(info);
  KeepAlive none;
  const In x = Arguments(info).next<In>(none);
  const HostBytes host = host_bytes(info, 2);
  const DType dtype = dtype_of(info, 3);
  if (int64_t(host.bytes) != element_count(x) * dtype_size(dtype)) {
    throw Napi::RangeError::New(info.Env(), "read: the array has another size than the tensor");
  }
  const bool checked = !info[4].IsNull();
  const DType as = checked ? dtype_of(info, 4) : dtype;
  if (checked && !(is_float(dtype) && is_float(as))) {
    throw Napi::TypeError::New(info.Env(), "read: only floats are checked");
  }
  auto* completion = new Completion(info.Env(), info[2].As<Napi::Object>());
  completion->has_number = checked;
  if (checked) completion->check = [host, dtype, as] { return is_not_finite(host, dtype, as) ? 1.0 : 0.0; };
  device->queue.push("read", [x, host, dtype, completion, raw = device.get()] {
    return raw->backend.download(raw->context, host.data, dtype, x, &completion->pending);
  });
  return settle_later(info.Env(), device, completion, true);
}

// readCsr(device, csr) -> a promise of { rowPtr, indices, values }
Napi::Value read_csr(const Napi::CallbackInfo& info) {
  auto& device = device_of(info);
  auto* completion = new Completion(info.Env());
  completion->csr = unwrap<std::shared_ptr<Csr>>(info, 1);
  return settle_later(info.Env(), device, completion, true);
}

Napi::Value synchronize(const Napi::CallbackInfo& info) {
  auto& device = device_of(info);
  return settle_later(info.Env(), device, new Completion(info.Env()), true);
}

Napi::Value reached(const Napi::CallbackInfo& info) {
  auto& device = device_of(info);
  auto* completion = new Completion(info.Env());
  return settle_later(info.Env(), device, completion, false);
}

Napi::Value wait(const Napi::CallbackInfo& info) {
  auto& device = device_of(info);
  // shared, as the other thread may still be inside set_value when this one goes on
  auto done = std::make_shared<std::promise<std::string>>();
  auto future = done->get_future();
  Pending* pending = nullptr;
  when_done(device.get(), pending, true, [done](std::string text) { done->set_value(std::move(text)); });
  const std::string error = future.get();
  return error.empty() ? info.Env().Null() : Napi::String::New(info.Env(), error);
}

// ---- speed

// ceiling(device, kind) -> a promise of a number per second, 0 where it cannot be measured
Napi::Value ceiling(const Napi::CallbackInfo& info) {
  auto& device = device_of(info);
  const int64_t kind = integer(info, 1);
  if (kind < 0 || kind > int64_t(Ceiling::bandwidth)) throw Napi::RangeError::New(info.Env(), "no such ceiling");
  auto* completion = new Completion(info.Env());
  completion->has_number = true;
  device->queue.push("ceiling", [kind, completion, raw = device.get()]() -> Status {
    auto* measure = raw->backend.operations(raw->context)->ceiling;
    return measure ? measure(raw->context, Ceiling(kind), &completion->number) : Status();
  });
  return settle_later(info.Env(), device, completion, true);
}

}  // namespace

void open_notifier(Napi::Env env, Device* device) {
  const Notifier notifier = Notifier::New(env, "sonde", 0, 1, device);
  notifier.Unref(env);
  device->notifier = notifier;
}

void add_result_methods(Napi::Object exports) {
  add_method(exports, "read", read);
  add_method(exports, "synchronize", synchronize);
  add_method(exports, "reached", reached);
  add_method(exports, "wait", wait);
  add_method(exports, "ceiling", ceiling);
  add_method(exports, "csr", make_csr);
  add_method(exports, "readCsr", read_csr);
}

}  // namespace sonde
