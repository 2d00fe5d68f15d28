-- Walks the Huffman codes of one JPEG scan (ITU-T T.81, annexes F and G) to find the bit at which each restart interval
-- ends, and what of the tables the scan uses. Nothing is decoded to pixels. LuaJIT compiles it as it runs.
--
-- A position is a count of bits from the start of the data, from which stuffed bytes and markers are gone. The caller
-- pads the data, so that a block (at most 64 codes of 16 + 15 bits) may read past the end before it is found out.

local ffi, bit = require("ffi"), require("bit")
local band, lshift, rshift, bswap = bit.band, bit.lshift, bit.rshift, bit.bswap

local COMPLETE, CUT_OFF, NO_CODE, UNUSUAL = 0, 1, 2, 3
local WIDTH = 10 -- bits of the windows in which several codes are looked up at once
local WINDOWS = lshift(1, WIDTH)

-- Slots 0..3 hold tables for DC, 4..7 for AC. Of a table, `codes` has by the next 16 bits: length + 256 * symbol +
-- 65536 * its place in the table, 0 where there is no such code. `leaps` has by the next 10 bits: how many bits whole
-- codes take in there + 256 * (coefficients they stand for) + 65536 if the last one ends the block, 0 where no code is
-- whole.
local codes, leaps = ffi.new("int32_t[?]", 8 * 65536), ffi.new("int32_t[?]", 8 * WINDOWS)
local leapt = ffi.new("uint8_t[?]", 8 * WINDOWS) -- 1 where the scan looked a window up
local places = ffi.new("uint8_t[?]", 8 * 256) -- 1 where the scan used the code at that place
local loaded, leaping_for = {}, {} -- which tables are in `codes` and in `leaps`

-- The codes that lie whole in a window: sets marks at their places where given.
local function leap(slot, window, marks)
  local used, coefficients, left = 0, 0, lshift(window, 16 - WIDTH)
  while true do
    local code = codes[slot * 65536 + left]
    local symbol = band(rshift(code, 8), 255)
    local size, length = band(symbol, 15), band(code, 255) + band(symbol, 15)
    if code == 0 or used + length > WIDTH then break end
    if slot >= 4 and size == 0 and symbol ~= 0 and symbol ~= 0xF0 then break end
    used, left = used + length, band(lshift(left, length), 65535)
    if marks then marks[rshift(code, 16)] = 1 end
    if slot < 4 then return used + 256 end
    if symbol == 0 then return used + 256 * coefficients + 65536 end
    coefficients = coefficients + rshift(symbol, 4) + 1
    if coefficients > 63 then return 0 end
  end
  return used + 256 * coefficients
end

local function load_codes(slot, text)
  local at, place = slot * 65536, 17
  local stop = at + 65536
  ffi.fill(codes + at, 4 * 65536)
  for length = 1, 16 do
    local span = lshift(1, 16 - length)
    for _ = 1, text:byte(length) do
      local entry = length + 256 * text:byte(place) + 65536 * (place - 17)
      for index = at, math.min(at + span, stop) - 1 do codes[index] = entry end
      at, place = at + span, place + 1
    end
  end
end

-- Takes a DHT segment's table, 16 counts and the symbols (annex C), into a slot; `leaping` for sequential scans.
local function load_table(slot, text, leaping)
  ffi.fill(places + slot * 256, 256)
  ffi.fill(leapt + slot * WINDOWS, WINDOWS)
  if loaded[slot] ~= text then
    load_codes(slot, text)
    loaded[slot], leaping_for[slot] = text, nil
  end
  if leaping and leaping_for[slot] ~= text then
    for window = 0, WINDOWS - 1 do leaps[slot * WINDOWS + window] = leap(slot, window) end
    leaping_for[slot] = text
  end
end

local function used_codes(slot)
  local found = places + slot * 256
  for window = 0, WINDOWS - 1 do
    if leapt[slot * WINDOWS + window] == 1 then leap(slot, window, found) end
  end
  return ffi.string(found, 256)
end

local function window32(data, position)
  return lshift(bswap(ffi.cast("const int32_t*", data + rshift(position, 3))[0]), band(position, 7))
end

-- One symbol of a table, marked as used: the position behind its code, and the symbol (nil if there is no such code).
local function next_symbol(data, position, slot)
  local code = codes[slot * 65536 + rshift(window32(data, position), 16)]
  if code == 0 then return position, nil end
  places[slot * 256 + rshift(code, 16)] = 1
  return position + band(code, 255), band(rshift(code, 8), 255)
end

-- How many bits an end-of-band run has behind its code, and the blocks it spans: 2^run + those bits (G.1.2.2).
local function end_of_band(data, position, run)
  if run == 0 then return position, 1 end
  return position + run, lshift(1, run) + rshift(window32(data, position), 32 - run)
end

-- A block of a progressive scan's first pass over coefficients `first` to `last`; `held`: 64 marks of this block.
local function first_pass(data, position, ac, first, last, held, quantisers)
  local k = first
  while k <= last do
    local symbol
    position, symbol = next_symbol(data, position, ac)
    if not symbol then return position, 0, NO_CODE end
    local run, size = rshift(symbol, 4), band(symbol, 15)
    if size == 0 and run < 15 then
      local blocks
      position, blocks = end_of_band(data, position, run)
      return position, blocks, COMPLETE
    end
    k = k + run + 1
    if k > last + 1 or (size == 0 and k == last + 1) then return position, 0, UNUSUAL end
    if size > 0 then
      held[k - 1], quantisers[k - 1] = 1, 1
      position = position + size
    end
  end
  return position, 0, COMPLETE
end

-- A block of a later pass: a bit for each coefficient that is there already, and codes for new ones (G.1.2.3).
local function later_pass(data, position, ac, first, last, held, quantisers)
  local k = first
  while k <= last do
    local symbol
    position, symbol = next_symbol(data, position, ac)
    if not symbol then return position, 0, NO_CODE end
    local run, size = rshift(symbol, 4), band(symbol, 15)
    if size > 1 then return position, 0, UNUSUAL end
    if size == 0 and run < 15 then
      local blocks
      position, blocks = end_of_band(data, position, run)
      for rest = k, last do position = position + held[rest] end
      return position, blocks, COMPLETE
    end
    position = position + size
    while k <= last do
      if held[k] == 1 then
        position = position + 1
      elseif run == 0 then
        break
      else
        run = run - 1
      end
      k = k + 1
    end
    if k > last then return position, 0, UNUSUAL end
    if size > 0 then held[k], quantisers[k] = 1, 1 end
    k = k + 1
  end
  return position, 0, COMPLETE
end

-- Marks of coefficients that are not zero, by component: of each block of a progressive picture, and of any block. The
-- caller starts a picture without components when it is done, so that the memory is free.
local picture = {}

local function start_picture(...)
  picture.held, picture.quantisers = {}, {}
  for component, blocks in ipairs({ ... }) do
    picture.held[component] = blocks > 0 and ffi.new("uint8_t[?]", blocks * 64) or nil
    picture.quantisers[component] = ffi.new("uint8_t[64]")
  end
end

local function used_quantisers(component) return ffi.string(picture.quantisers[component], 64) end

local function finish(ends, count, status)
  return status, ffi.string(ends, 4 * count)
end

-- A sequential scan. `ends_at`: int32 positions at which intervals end; `interval`: MCUs in one; `plan`: for each block
-- of an MCU the component (from 1), DC slot and AC slot. Returns a status and the int32 positions at which codes end.
-- One flat loop over codes and leaps, since nested ones are what LuaJIT compiles badly.
local function sequential(text, starts_at, ends_at, intervals, interval, mcus, plan, blocks, marking)
  local data = ffi.cast("const uint8_t*", text)
  local starts, stops = ffi.cast("const int32_t*", starts_at), ffi.cast("const int32_t*", ends_at)
  local part = ffi.cast("const uint8_t*", plan)
  local ends = ffi.new("int32_t[?]", intervals)
  local limit = marking and 0 or 64
  for number = 0, intervals - 1 do
    local position, stop = starts[number], stops[number]
    local left = math.min(interval, mcus - number * interval) * blocks
    local block, k, slot = 0, 0, part[1]
    local acs, dcs = part[2], part[1]
    while left > 0 do
      local window = slot * WINDOWS + rshift(window32(data, position), 32 - WIDTH)
      local entry = leaps[window]
      local after = k + band(rshift(entry, 8), 255)
      if entry ~= 0 and after < limit then
        leapt[window] = 1
        position, k, slot = position + band(entry, 255), after, acs
      else
        local symbol
        position, symbol = next_symbol(data, position, slot)
        if not symbol then return finish(ends, number, NO_CODE) end
        entry = 0
        if k == 0 then
          if symbol > 15 then return finish(ends, number, UNUSUAL) end
          position, k, slot = position + symbol, 1, acs
        elseif symbol == 0 then
          entry = 65536
        else
          local size = band(symbol, 15)
          if size == 0 and symbol ~= 0xF0 then return finish(ends, number, UNUSUAL) end
          position, k = position + size, k + rshift(symbol, 4) + 1
          -- A run past the last coefficient stops there, as in libjpeg.
          if marking and size > 0 then picture.quantisers[part[3 * block]][math.min(k - 1, 63)] = 1 end
          if k >= 64 then entry = 65536 end
        end
      end
      if entry >= 65536 then
        if position > stop then return finish(ends, number, CUT_OFF) end
        left, k, block = left - 1, 0, block + 1
        if block == blocks then block = 0 end
        dcs, acs = part[3 * block + 1], part[3 * block + 2]
        slot = dcs
      end
    end
    ends[number] = position
  end
  return finish(ends, intervals, COMPLETE)
end

-- A progressive scan for DC: of all blocks a code (first pass) or a bit.
local function progressive_dc(text, starts_at, ends_at, intervals, interval, mcus, plan, blocks, later)
  local data = ffi.cast("const uint8_t*", text)
  local starts, stops = ffi.cast("const int32_t*", starts_at), ffi.cast("const int32_t*", ends_at)
  local part = ffi.cast("const uint8_t*", plan)
  local ends = ffi.new("int32_t[?]", intervals)
  for number = 0, intervals - 1 do
    local position, stop = starts[number], stops[number]
    for _ = 1, math.min(interval, mcus - number * interval) do
      for block = 0, 3 * blocks - 1, 3 do
        if later then
          position = position + 1
        else
          local symbol
          position, symbol = next_symbol(data, position, part[block + 1])
          if position > stop then return finish(ends, number, CUT_OFF) end
          if not symbol then return finish(ends, number, NO_CODE) end
          if symbol > 15 then return finish(ends, number, UNUSUAL) end
          position = position + symbol
        end
        if position > stop then return finish(ends, number, CUT_OFF) end
      end
    end
    ends[number] = position
  end
  return finish(ends, intervals, COMPLETE)
end

-- A progressive scan for coefficients `first` to `last` of one component's blocks.
local function progressive_ac(
  text, starts_at, ends_at, intervals, interval, component, blocks, slot, first, last, later
)
  local data = ffi.cast("const uint8_t*", text)
  local starts, stops = ffi.cast("const int32_t*", starts_at), ffi.cast("const int32_t*", ends_at)
  local ends, status = ffi.new("int32_t[?]", intervals), COMPLETE
  local held, quantisers = picture.held[component], picture.quantisers[component]
  for number = 0, intervals - 1 do
    local position, stop, run = starts[number], stops[number], 0
    for block = number * interval, math.min((number + 1) * interval, blocks) - 1 do
      local marks = held + 64 * block
      if run > 0 then
        run = run - 1
        if later then
          for k = first, last do position = position + marks[k] end
        end
      else
        local pass = later and later_pass or first_pass
        position, run, status = pass(data, position, slot, first, last, marks, quantisers)
        if run > 0 then run = run - 1 end
      end
      if position > stop then return finish(ends, number, CUT_OFF) end
      if status ~= COMPLETE then return finish(ends, number, status) end
    end
    if run > 0 then return finish(ends, number, UNUSUAL) end
    ends[number] = position
  end
  return finish(ends, intervals, COMPLETE)
end

return {
  load_table = load_table,
  used_codes = used_codes,
  start_picture = start_picture,
  used_quantisers = used_quantisers,
  sequential = sequential,
  progressive_dc = progressive_dc,
  progressive_ac = progressive_ac,
}
